"""What every training task shares: configuration, seeds, downloads, the loop, export, the bundle and its card."""
