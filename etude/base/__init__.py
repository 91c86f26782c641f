"""A base model: its files, families, tokenizer, text encoders, autoencoder; all that *encode* needs."""
