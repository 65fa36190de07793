"""The settings, for the server, the command line and the migrations alike."""
