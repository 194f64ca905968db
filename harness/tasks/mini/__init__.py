"""The paper in miniature: sums modulo 7 in steps whose size the model chooses, and small base models of two layouts."""
