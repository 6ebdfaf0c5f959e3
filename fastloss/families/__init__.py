"""What losses of one family share: parameters, the five calls, derived documentation."""
