"""The playground: one page on which people try the models, and what it needs to know of them beyond the dialects."""
