"""Feast's layouts, worked out once, so that serving never imports Feast."""
