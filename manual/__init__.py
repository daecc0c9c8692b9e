"""What is made of the program for people to read: man pages, and pages of the documentation's site."""
