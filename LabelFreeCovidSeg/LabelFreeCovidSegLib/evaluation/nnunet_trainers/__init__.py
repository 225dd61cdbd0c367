"""What nnU-Net's own programs look trainers up in; only they import it, in their environment."""
