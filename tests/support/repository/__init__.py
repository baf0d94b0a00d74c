"""Files of this repository that tests read: pages of the documentation, old databases."""
