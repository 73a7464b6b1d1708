"""A log that anybody can check: Merkle tree, tiles, checkpoints, cosignatures, proofs.

A leaf: it needs the standard library and ``cryptography``, reads no file and knows no time, so that
an auditor can take it as it is. Bytes in; values, or :class:`Malformed` and :class:`Refuted`, out.
Sources: RFC 6962 and RFC 9162 (tree and proofs), C2SP tlog-tiles, signed-note, tlog-checkpoint,
tlog-cosignature and tlog-proof.
"""
