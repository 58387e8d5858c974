"""Students: networks trained from scratch on a distilled set, and their accuracy."""
