"""Records of other frameworks, each as rows of their own names: a module a format, and what their names mean here."""
