"""GGUF, the files of llama.cpp: which architecture takes a model, its keys and tensors, the tokenizer, the writer."""
