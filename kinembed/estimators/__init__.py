"""scikit-learn's interface: photos to vectors, vectors to a kin metric, distances to kin or not."""
