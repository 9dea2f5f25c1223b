"""What a run leaves behind and says meanwhile: its folder, checkpoint, metrics, progress; and how it is stopped."""
