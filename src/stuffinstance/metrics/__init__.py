"""Scores of predictions: mIoU, class center distance, and scores without labels."""
