"""Training on unlabelled scans, headless: prepare a cache, fit, export weights."""
