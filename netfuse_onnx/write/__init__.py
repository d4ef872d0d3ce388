"""Merged -> Staged: files beside the target, complete and synced; then their place, all or nothing."""
