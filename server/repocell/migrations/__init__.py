"""The store's schema, one revision after the other, from the first version on."""
