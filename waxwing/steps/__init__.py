"""What is known of the steps of a flow."""
