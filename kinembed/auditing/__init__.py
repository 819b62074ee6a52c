"""What in a data set is doubtful: a module for each kind of finding."""
