"""Who callers are: the keys and tokens of an OpenID Connect issuer, and a file of certificates."""
