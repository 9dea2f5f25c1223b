"""Adapt a segmentation network from GTA5 (or SYNTHIA, or the generated city) to Cityscapes, end to end."""
