"""One exchange: its facts, its timer, the client's side of it, and the ledger of live exchanges."""
