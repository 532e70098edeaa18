"""What is kept of a run that has not ended, so that another process can go on where it stopped."""
