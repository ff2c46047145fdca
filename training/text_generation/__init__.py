"""Text generation: next-character LSTM language models of any UTF-8 text."""
