"""The nightly job: its steps, their outcomes, and the page that shows them."""
