"""A pretrained model under a budget, with a little unlabelled data."""
