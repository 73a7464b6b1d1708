"""The online store on Redis or Valkey: Feast's layout for states, our own keys for the rest.

One server, a primary that Sentinels name, or a cluster, by the URL. Every command names one key and
no script touches two that a cluster may part.
"""
