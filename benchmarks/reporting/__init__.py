"""Tables, figures and traces of records and simulations."""
