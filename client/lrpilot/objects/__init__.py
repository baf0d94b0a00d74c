"""The user's objects, of any class: what they hold, and copies of it."""
