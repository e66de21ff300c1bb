"""Models that predict the labels of a row of features, of one task or of several."""
