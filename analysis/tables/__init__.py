"""Tables, the paper's and ours, and their renderings."""
