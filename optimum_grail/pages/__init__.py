"""A folder that this package wrote, as one page for a browser."""
