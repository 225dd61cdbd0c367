"""The published systems, one file each, behind one interface (`methods.base`)."""
