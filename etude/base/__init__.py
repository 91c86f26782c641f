"""A base model: its files, families, tokenizer, text encoders and autoencoder; all that the encode stage needs."""
