"""Translation by a recurrent encoder-decoder with attention: sentence pairs, tokens, network, search, figures."""
