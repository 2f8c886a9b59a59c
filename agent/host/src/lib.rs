//! What one machine should look like for Spanwire, as a pure function of its plan.
