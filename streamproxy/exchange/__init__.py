"""One exchange and what travels with it: the facts, the ledger of live ones, its timer, its client's side."""
