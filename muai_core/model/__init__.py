"""The nouns: frozen records without behaviour beyond small derived values. Pure."""
