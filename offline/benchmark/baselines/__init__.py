"""Methods of others, each with a setting of its own: chance, popularity, closeness of texts, and what logs tell."""
