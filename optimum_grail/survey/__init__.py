"""What is measured on the dense model before widths are decided."""
