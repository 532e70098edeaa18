"""Pure values and linear algebra; imports torch only."""
