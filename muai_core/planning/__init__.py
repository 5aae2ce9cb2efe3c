"""Which devices a replica gets: filter → score → fit, with reasons. Pure."""
