"""Students: networks trained from scratch on a distilled set, and how well they do."""
