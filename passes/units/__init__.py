"""Who owns which entry of a weight: tags, rules, owners, scores."""
