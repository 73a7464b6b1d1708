"""The online store on Redis or Valkey: Feast's layout for states, our own keys for the rest.

Every command names one key and no script touches two, so that a Redis Cluster needs a router in
front of the connection and nothing else. Today there is one node, without Sentinel.
"""
