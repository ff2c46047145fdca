"""Offline training: data in, a bundle under `models/` out.

Of the service it knows only the contract (`service.manifest`), the image preprocessing that both sides must share
(`service.images`) and the errors these raise.
"""
