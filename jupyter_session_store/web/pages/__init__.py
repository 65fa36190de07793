"""A page that shows who runs what where, beside a hub or for one operator; it only reads."""
