"""scikit-learn estimators: a transformer of photos, a metric transformer, a pair classifier."""
