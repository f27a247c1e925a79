"""What a release is made of, as `make dist` makes it. They run with `make compiled`, or with --dist FOLDER."""
