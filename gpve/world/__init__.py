"""The ports that every world implements, simulated or live: what an engine needs from outside, as Protocols."""
