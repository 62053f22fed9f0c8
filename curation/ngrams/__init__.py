"""Character n-gram models: how surprising a text is to a model of the corpus itself."""
