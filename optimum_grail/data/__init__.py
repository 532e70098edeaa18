"""Which rows: calibration data read from files, tables, text, images or written by the model, and cut into batches."""
