"""How large an installation has to be: measured unit costs, a model over them, prices."""
